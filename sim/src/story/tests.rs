//! Tests of the story.
