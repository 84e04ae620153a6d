/* Puts our kernels in place of ggml's functions: into the slots through which its CPU library calls them. kernels.py
 * compiles all of this folder for the machine it runs on, against the header that llama-cpp-python has installed.
 */
#define _GNU_SOURCE
#include <link.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "native.h"

struct search {
    const struct kernel *kernel;
    void *wanted;
    int found;
};

/* The part of `object` of this type that holds the address, if any. */
static const ElfW(Phdr) *part_with(const struct dl_phdr_info *object, unsigned type, const void *address) {
    for (int i = 0; i < object->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = object->dlpi_phdr + i;
        const ElfW(Addr) offset = (ElfW(Addr)) address - object->dlpi_addr - part->p_vaddr;
        if (part->p_type == type && offset < part->p_memsz) return part;
    }
    return NULL;
}

static void set_slots(const struct dl_phdr_info *object, const ElfW(Rela) *entry, size_t bytes, const ElfW(Sym) *symbols,
                      const char *names, struct search *search) {
    const uintptr_t page = (uintptr_t) sysconf(_SC_PAGESIZE);
    for (size_t i = 0; i < bytes / sizeof *entry; i++) {
        const unsigned long type = ELF64_R_TYPE(entry[i].r_info);
        const char *name = names + symbols[ELF64_R_SYM(entry[i].r_info)].st_name;
        if ((type != R_X86_64_JUMP_SLOT && type != R_X86_64_GLOB_DAT) || strcmp(name, search->kernel->name) != 0) continue;
        void **slot = (void **) (object->dlpi_addr + entry[i].r_offset);
        void *start = (void *) ((uintptr_t) slot & ~(page - 1));
        if (mprotect(start, page, PROT_READ | PROT_WRITE) != 0) continue;
        *slot = search->wanted;
        if (part_with(object, PT_GNU_RELRO, slot)) mprotect(start, page, PROT_READ);
        search->found++;
    }
}

static int look(struct dl_phdr_info *object, size_t size, void *data) {
    struct search *search = data;
    (void) size;
    if (!part_with(object, PT_LOAD, search->kernel->own)) return 0;
    for (int i = 0; i < object->dlpi_phnum; i++) {
        if (object->dlpi_phdr[i].p_type != PT_DYNAMIC) continue;
        const ElfW(Rela) *plt = NULL, *other = NULL;
        const ElfW(Sym) *symbols = NULL;
        const char *names = NULL;
        size_t plt_bytes = 0, other_bytes = 0;
        for (const ElfW(Dyn) *entry = (const ElfW(Dyn) *) (object->dlpi_addr + object->dlpi_phdr[i].p_vaddr);
             entry->d_tag != DT_NULL; entry++) {
            /* glibc has made these addresses, musl leaves offsets */
            ElfW(Addr) address = entry->d_un.d_ptr;
            if (address < object->dlpi_addr) address += object->dlpi_addr;
            if (entry->d_tag == DT_JMPREL) plt = (const ElfW(Rela) *) address;
            if (entry->d_tag == DT_RELA) other = (const ElfW(Rela) *) address;
            if (entry->d_tag == DT_SYMTAB) symbols = (const ElfW(Sym) *) address;
            if (entry->d_tag == DT_STRTAB) names = (const char *) address;
            if (entry->d_tag == DT_PLTRELSZ) plt_bytes = entry->d_un.d_val;
            if (entry->d_tag == DT_RELASZ) other_bytes = entry->d_un.d_val;
        }
        if (!symbols || !names) continue;
        if (plt) set_slots(object, plt, plt_bytes, symbols, names, search);
        if (other) set_slots(object, other, other_bytes, symbols, names, search);
    }
    return 1;
}

static struct kernel *const kernels[] = {&sre_attention, &sre_matmul};
#define KERNELS (int) (sizeof kernels / sizeof *kernels)

/* The name of ggml's function in whose place this kernel comes; NULL after the last. */
const char *sre_name(int kernel) { return kernel < KERNELS ? kernels[kernel]->name : NULL; }

/* Let the library that ggml's function `own` belongs to call this kernel in its place; or, `use` being false, `own` again.
 * Not while it runs. The number of slots set: 0 where there is none. */
int sre_use(int kernel, void *own, bool use) {
    kernels[kernel]->own = own;
    struct search search = {kernels[kernel], use ? kernels[kernel]->ours : own, 0};
    dl_iterate_phdr(look, &search);
    return search.found;
}

/* How many times it was called. */
long sre_calls(int kernel) { return kernels[kernel]->calls; }

/* What it takes a tensor for, to be held against the library's own. */
size_t sre_tensor_bytes(void) { return sizeof(struct ggml_tensor); }
