"""Model versions on disk: verified before they are parsed, loaded when first needed."""
