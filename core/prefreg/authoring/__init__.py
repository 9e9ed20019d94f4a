"""For authors of axes: the template of a package and the conformance kit."""
