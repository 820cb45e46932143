"""Which sessions should this recording be pretrained on? The library in a page, on simulated sessions.

    python examples/quickstart.py [FOLDER]

With recordings of your own, import them once and open the store:

    sessionwise data import recordings/*.npz --to my-store
    sessions = sw.open_store("my-store")
"""

import sys
import tempfile
from pathlib import Path

import sessionwise as sw

folder = Path(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp(prefix="sessionwise-"))

# Five sessions and one held out; how close each is to it in time is known, because they are simulated.
pool = sw.simulate_pool(5, 1, seed=3, n_trials=(80, 110), n_units=(20, 30), n_bins=30, modulation=1.5)
sessions = sw.create_store(folder / "store")
for session in pool.sessions:
    sessions.add(session)
heldout = pool.heldout[0]

# Rank: one model a session and seed, then new stitchers around each frozen core, scored on validation trials.
ranking = sw.rank(sessions, heldout, preset="tiny", seeds=[10, 20], to=folder / "study")
for name in ranking.order:
    print(f"{name}  {ranking.scores[name]:.3f} bits per spike  true closeness {pool.closeness[heldout][name]:.1f}")
print(ranking.document["verdict"]["text"])

# Pretrain on the best two, finetune on the held-out session, and report on its test trials, once.
model = sw.pretrain(sessions.subset(ranking.top(2)), seed=10, preset="tiny", to=folder / "study")
tuned = sw.finetune(model, heldout)
alone = sw.train_baseline(sessions, heldout, seed=10, preset="tiny", to=folder / "study")
for name, trained in (("pretrained on the top 2", tuned), ("trained on the recording alone", alone)):
    score = sw.evaluate(trained, heldout, split="test")
    print(f"{name}: {score.bps:.3f} bits per spike on test trials (mean over units {score.bps_unit_mean:.3f})")
