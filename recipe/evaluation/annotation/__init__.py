"""People compare rationales: out to Label Studio and back."""
