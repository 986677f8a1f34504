"""xl and libxl: xl.cfg."""
