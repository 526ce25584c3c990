//! From the bytes of an upload to the numbers a network wants.
