//! The checkers, checked: each invariant by two files, and all of them by histories that are made right and then
//! broken.

mod broken;
mod files;
mod late;
mod made;
