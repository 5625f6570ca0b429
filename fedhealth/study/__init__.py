"""What a study is: the protocol a researcher writes, its canonical bytes, its digest and its signature."""
