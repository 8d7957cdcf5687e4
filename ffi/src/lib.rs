//! Raw ABI of netmap(4), API 14.
#![allow(unsafe_code)]
