//! Examples of millpond beside other crates; each is a program in this folder.
