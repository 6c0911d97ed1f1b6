"""The serving benchmark: this server and others under the same load, on one machine, in turns (`make bench`)."""
