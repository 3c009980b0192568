"""Deep compression (arXiv 2103.15972, 1510.00149): few weights, few levels, under an accuracy budget."""
