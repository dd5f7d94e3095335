"""A gateway at its limit for minutes on end: does it keep what it should give back?"""
