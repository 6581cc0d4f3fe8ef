"""Pictures and clips: judged, cut, decoded, scaled, augmented and laid out as patches."""
