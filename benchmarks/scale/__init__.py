"""What an ensemble of worlds costs beside one network over all classes, as K grows."""
