"""SARM: ranking with semantic anchors (section 3 of the paper), one file per part."""
