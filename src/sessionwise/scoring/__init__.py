"""How well rates predict spikes: likelihood and bits per spike, and the evaluation of a model on a split."""
