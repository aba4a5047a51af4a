module openload

go 1.22
