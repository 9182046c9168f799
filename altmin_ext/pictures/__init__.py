"""Pictures of training runs: panels of curves, drawn by matplotlib or as the inline SVG of a page."""

from altmin_ext.pictures.panels import Curve, Panel, learning_curves, stage_panels, step_panels

__all__ = ["Curve", "Panel", "learning_curves", "stage_panels", "step_panels"]
