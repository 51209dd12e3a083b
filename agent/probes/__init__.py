"""Where the truth about the hardware comes from: one module per source, behind one small interface."""
