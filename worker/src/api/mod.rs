//! HTTP in front of the models.
