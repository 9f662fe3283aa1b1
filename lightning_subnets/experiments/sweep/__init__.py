"""The runs of a figure: ``figure`` reads the file, ``plan`` lists the runs, ``running`` makes them."""
