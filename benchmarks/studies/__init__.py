"""The studies, one file each: a file that is dropped in is found."""
