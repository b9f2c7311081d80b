"""How fast solvers and learners are, beside other libraries."""
