//! The texts of records.

/// A text that is never changed in place. Up to 15 bytes, as most are, stand in itself, and longer ones are shared by
/// its copies: there are many records, and each has some.
pub type Text = ecow::EcoString;
