//! The packet path of Culvert.
