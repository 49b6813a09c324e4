"""How good a result is: metrics and the protocols that apply them."""
