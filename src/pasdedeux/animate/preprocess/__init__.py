"""From pixels to keypoints and back: find a person, smooth, fit to another body, draw. Nothing here needs
torch.
"""
