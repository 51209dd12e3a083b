"""Makes sonic/simulated.mp4, the video of every simulated render: one second of a slate with the word SIMULATED."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image, ImageDraw, ImageFont

SLATE = Path(__file__).resolve().parent.parent / "sonic" / "simulated.mp4"
_SIDE_PX, _FPS = 320, 25
_RATE_HZ, _AUDIO_FRAME_SAMPLES = 48_000, 1024


def main() -> None:
    picture = Image.new("RGB", (_SIDE_PX, _SIDE_PX), (24, 26, 32))
    drawn, middle = ImageDraw.Draw(picture), _SIDE_PX / 2
    drawn.rectangle((12, 12, _SIDE_PX - 13, _SIDE_PX - 13), outline=(90, 96, 110), width=2)
    drawn.text((middle, middle), "SIMULATED", (235, 235, 235), ImageFont.load_default(42), anchor="mm")
    with av.open(str(SLATE), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        video = container.add_stream("libx264", rate=_FPS, options={"preset": "veryslow", "crf": "30"})
        video.width = video.height = _SIDE_PX
        video.pix_fmt = "yuv420p"
        sound = container.add_stream("aac", rate=_RATE_HZ, layout="mono")
        sound.bit_rate = 16_000
        for number in range(_FPS):
            frame = av.VideoFrame.from_image(picture)
            frame.pts, frame.time_base = number, Fraction(1, _FPS)
            container.mux(video.encode(frame))
        for number in range(_RATE_HZ // _AUDIO_FRAME_SAMPLES):
            silence = np.zeros((1, _AUDIO_FRAME_SAMPLES), np.float32)
            heard = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
            heard.sample_rate, heard.time_base = _RATE_HZ, Fraction(1, _RATE_HZ)
            heard.pts = number * _AUDIO_FRAME_SAMPLES
            container.mux(sound.encode(heard))
        container.mux(video.encode(None))
        container.mux(sound.encode(None))


if __name__ == "__main__":
    main()
