"""The filters between sandbox and page: outputs, Markdown and replies are checked and rebuilt."""
