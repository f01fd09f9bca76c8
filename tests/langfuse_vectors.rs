//! Runs the recorded Langfuse vectors.
