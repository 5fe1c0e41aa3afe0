"""The language side: plans out of questions, sentences out of facts."""
