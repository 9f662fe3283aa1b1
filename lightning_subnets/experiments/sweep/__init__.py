"""The runs of a figure: ``figure`` reads its file, ``plan`` lists them, ``running`` or ``submitting`` makes them."""
