"""The commands, one file for each: parse, call one function, render."""
