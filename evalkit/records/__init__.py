"""The files of a run: manifest, journal, and the data frame made from them."""
