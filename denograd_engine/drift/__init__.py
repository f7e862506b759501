"""Whether later rows still look like those that a version was made from.

bins          how a column is counted
counting      from a table to counts
scores        what a cell says about a change
dependence    how much less a row says where rows resemble their neighbours
profile       the reference, in a few thousand numbers
alternatives  what a change would look like
joint         all columns together
comparison    tests of a batch, with effects
watch         the decision, check by check, with a stated rate of false alarms
verdict       what it says
"""
