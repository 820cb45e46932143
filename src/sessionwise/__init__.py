"""sessionwise: which earlier recordings should a Neural Data Transformer be pretrained on?"""
