"""Front ends for tests whose subject is not a preset; they stay as they are when presets change."""

from ser_batch.audio.frontends import FrontEnd

WINDOWED = FrontEnd(
    rate_hz=16_000,
    n_fft=512,
    hop_length=256,
    n_mels=64,
    fmin_hz=50.0,
    fmax_hz=7_600.0,
    length_secs=3.0,
    shorter="pad",
    longer="window",
    window_hop_secs=1.5,
    trim_top_db=None,
    wiener=False,
    db_reference="one",
    db_floor=1e-6,
    db_range=None,
)
TRUNCATED = WINDOWED.replace(longer="truncate", window_hop_secs=None)

# As many frames as a recording has.
KEPT = WINDOWED.replace(length_secs=10.0, shorter="keep", window_hop_secs=5.0)
