"""One HTML file of a report, a comparison, an image's sites or a calibration, made from its JSON."""
