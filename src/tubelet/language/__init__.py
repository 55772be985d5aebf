"""Into the language model: which positions visual tokens get, and which places of the prompt they take."""
