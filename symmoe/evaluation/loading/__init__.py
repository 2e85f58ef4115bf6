"""What grouped loading costs, measured against a plain copy, a rebuilt engine and no loading at all."""
