"""Training: batches, the one optimisation loop, the jobs (pretrain, finetune, baseline, evaluate) and the presets."""
