"""Attention and loss head, and the choice among kernels.

choice              choose attention and kernels for this machine
document_attention  attention within the documents of a packed row
slot_attention      attention of sequences that decode in slots
loss_head           cross-entropy without all logits in memory
rotary              keep rotary frequencies in float32
"""
