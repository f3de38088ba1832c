"""All HTTP: parse, call one function, render."""
