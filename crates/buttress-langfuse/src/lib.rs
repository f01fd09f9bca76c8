//! Sends the traces of buttress to Langfuse and loses none of them.
