"""What commands share: where output goes, how an error ends the program, and what rich draws."""
