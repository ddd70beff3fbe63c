"""Images that say of themselves that an algorithm made them.

IPTC Photo Metadata Standard 2023.2, property Digital Source Type, as XMP (ISO 16684-1): what search engines
and image tools read. Pillow writes it into the places that PNG, JPEG and WebP have for it.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image, PngImagePlugin

from ..spec.generate import EncodingSpec

TRAINED_ALGORITHMIC_MEDIA = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
XMP = f"""<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
 Iptc4xmpExt:DigitalSourceType="{TRAINED_ALGORITHMIC_MEDIA}"/></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""
PNG_KEYWORD = "XML:com.adobe.xmp"


def marked(pixels: np.ndarray, encoding: EncodingSpec) -> bytes:
    """(H, W, 3) uint8 RGB -> PNG, JPEG or WebP with the mark."""
    buffer, image = io.BytesIO(), Image.fromarray(pixels)
    if encoding.format == "png":
        chunks = PngImagePlugin.PngInfo()
        chunks.add_itxt(PNG_KEYWORD, XMP)
        image.save(buffer, "PNG", pnginfo=chunks)
    else:
        image.save(buffer, encoding.format.upper(), quality=encoding.quality, xmp=XMP.encode())
    return buffer.getvalue()
