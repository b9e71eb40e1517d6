"""Front ends for tests whose subject is examples of one length, whatever the presets are."""

from dataclasses import replace

from ser_batch.audio.frontend import SPEECH

WINDOWED = replace(SPEECH, length_secs=3.0, shorter="pad", longer="window", window_hop_secs=1.5)
TRUNCATED = replace(WINDOWED, longer="truncate", window_hop_secs=None)
