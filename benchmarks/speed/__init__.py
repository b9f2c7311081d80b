"""Speed of solvers and learners, beside other libraries."""
