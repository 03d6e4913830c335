//! Tools of the black-box tests.
