"""Analysis and rewriting of traced functions.

A traced function is a jaxpr: a list of equations, some of which hold further jaxprs.
The modules here go through these equations in order and into the jaxprs within them.
jmeta needs that because only the jaxpr shows what a user's function does: what it
captures, which inputs its derivative reaches and whose derivative rules it uses.
"""
