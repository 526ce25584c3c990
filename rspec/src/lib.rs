//! Reads, checks and writes GENI RSpec v3 requests.
