"""Demo: three real models, trained, registered, served and asked, in one command."""
