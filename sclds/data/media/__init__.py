"""Images and videos: judged, cut, decoded, scaled, augmented and laid out as patches."""
